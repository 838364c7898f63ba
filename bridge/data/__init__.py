"""Questions about images: official files and conversations in, packed training sequences out."""
