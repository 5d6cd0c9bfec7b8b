"""What AWS would admit: pure rules, with the clock given to them."""
