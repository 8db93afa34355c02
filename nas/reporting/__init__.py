"""What a person looks at: pictures and tables of a fine-tuning and of a search."""
