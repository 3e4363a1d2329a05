"""Labels of cells by people: pictures of cells out, labels and boxes back in."""
