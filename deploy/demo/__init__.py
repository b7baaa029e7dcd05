"""The main job: a flash sale over HTTP, watched live, audited at the end."""
