"""The main job on real input, in a folder that is removed afterwards: ``memos demo``.

material    what is stored and asked: a conversation over nine months, three chapters of Alice in Wonderland
steps       storing, asking, narrowing down
forgetting  one memory deleted, and looked for everywhere
timing      where the time goes
show        the results as tables
run         all of it in order
"""
