"""The kit for a GPU machine without internet: packed by `make gpu-kit`, run there by `bash gpu-kit/run.sh --out DIR`.

Correctness first, then the encoder, then time; JSON in DIR and one short table last. Everything but pack.py runs without
TVM, and with --device cpu on a kit packed for the CPU, which is how it is tested.
"""
