"""From scores and a budget to the sizes and the kept neurons of every block."""
