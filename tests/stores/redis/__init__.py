"""RedisStorage over one server, behind Sentinel, and in a cluster."""
