"""captionbeam: image captioning as a distributed batch data pipeline.

``captionbeam.schemas`` reads stores, ``captionbeam.capmodel`` is the model, ``captionbeam.pipelines`` has the Beam
pipelines, ``captionbeam.jobs`` the commands.
"""
