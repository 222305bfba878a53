"""What runs beside the calls: durable jobs, and later the policies that move memories between tiers."""
