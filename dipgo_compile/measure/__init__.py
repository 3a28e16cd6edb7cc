"""What speed and agreement are measured with: processes, machines, inputs, verdicts."""
