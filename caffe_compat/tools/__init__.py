"""What Caffe's other programs do, as calls: data bases of images, their mean, features, classification."""
