"""The commands of `soco`: what each takes, which stage it calls, and the one line that it prints."""
