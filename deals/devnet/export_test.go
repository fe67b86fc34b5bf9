package devnet

// Sweep runs the collection of garbage that otherwise waits for enough of it.
func (n *Net) Sweep() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sweep()
}
