"""What answers chat requests: servers and samplers, behind the one interface of `chat`."""
