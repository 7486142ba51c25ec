"""Files of the pose system: lists, results, pickles, pictures, exports."""
