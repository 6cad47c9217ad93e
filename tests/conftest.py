"""For all tests: properties are judged by what they say, never by how fast this machine is today."""

from hypothesis import settings

settings.register_profile("fledge", deadline=None)
settings.load_profile("fledge")
