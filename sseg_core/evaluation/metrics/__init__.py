"""What is counted: scores, their intervals, borders, memory."""
