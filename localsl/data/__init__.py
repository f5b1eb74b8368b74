"""Loading and checking data sets: uint8 images in memory, or pictures on disk that are decoded when needed."""
