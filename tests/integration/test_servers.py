"""The servers behind the integration tests start, answer and keep tests apart."""

from __future__ import annotations

import uuid
from urllib.parse import urlsplit

import chromadb
import numpy as np
import redis
import sqlalchemy as sa
from chromadb.config import Settings


def test_postgres_offers_pgvector(postgres_database: str) -> None:
    engine = sa.create_engine(postgres_database)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE EXTENSION vector"))
        distance = connection.scalar(sa.text("SELECT '[1,2,3]'::vector <-> '[1,2,5]'::vector"))
    engine.dispose()
    assert distance == 2.0


def test_postgres_databases_start_empty(postgres_url: str, postgres_database: str) -> None:
    engine = sa.create_engine(postgres_database)
    assert sa.inspect(engine).get_table_names() == []
    assert sa.make_url(postgres_url).database != engine.url.database
    engine.dispose()


def test_redis_answers_ping(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping()
        assert client.dbsize() == 0


def test_chroma_finds_nearest(chroma_url: str) -> None:
    address = urlsplit(chroma_url)
    assert address.hostname is not None
    assert address.port is not None
    client = chromadb.HttpClient(
        host=address.hostname, port=address.port, settings=Settings(anonymized_telemetry=False)
    )
    assert client.heartbeat() > 0
    collection = client.create_collection(f"test-{uuid.uuid4().hex}", embedding_function=None)
    collection.add(ids=["near", "far"], embeddings=np.eye(2, dtype=np.float32))
    query = np.array([[0.9, 0.1]], dtype=np.float32)
    assert collection.query(query_embeddings=query, n_results=1)["ids"] == [["near"]]
