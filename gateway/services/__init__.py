"""The decisions between wire and stores."""
