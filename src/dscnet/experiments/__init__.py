"""Many runs: sweeps over variants and seeds, and their comparison."""
