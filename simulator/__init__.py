"""Click logs with known truth: write a day's log (`log`), ask for the true click probability (`truth`)."""
