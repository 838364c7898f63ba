"""What scripts/prepare_data.py is made of: the official files, reading a folder of them, unpacking, decoding."""
