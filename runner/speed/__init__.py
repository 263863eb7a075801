"""How quick an engine is: batches of one shape, the machine's limits beside them, requests that come by a clock."""
