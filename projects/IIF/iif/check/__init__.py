"""All faults of annotation and result files at once, and what each would do: "iif check"."""
