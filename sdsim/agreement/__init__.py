"""How well the simulator agrees with measurements: of steps, of replayed requests, and of whole runs on hardware."""
