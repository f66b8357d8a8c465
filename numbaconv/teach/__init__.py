"""What ``numbaconv teach`` measures on this machine, and the page that shows it."""
