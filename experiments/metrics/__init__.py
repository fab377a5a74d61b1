"""What a method's pictures and predictions are judged by."""
