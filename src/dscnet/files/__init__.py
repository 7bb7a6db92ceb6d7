"""The ground: files written whole, pictures opened, label images, and folders walked."""
