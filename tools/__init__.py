"""Programs that make the files which ship with the runner, and that check and renew its pages."""
