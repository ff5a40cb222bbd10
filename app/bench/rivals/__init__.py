"""The live bench's job as others would write it: each module is a program, started by `app.bench.throughput`."""
