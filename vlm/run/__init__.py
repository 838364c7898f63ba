"""What every training run is made of: settings, its folder, checkpoints, resume, schedule, records."""
