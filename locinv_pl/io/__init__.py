"""Files of this package and of others, images and masks, and the frame that all are cut to."""
