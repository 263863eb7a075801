"""The task tools: functions are offered, and the calls in the answers are matched with those that
were wanted."""
