"""The way out: a fine-tuned model in the form that other libraries load."""
