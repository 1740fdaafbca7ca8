"""The Beam pipelines: find images, plan shards, encode, tokenize, caption, publish, and maintain stores."""
