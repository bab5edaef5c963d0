package mq

// Subscriptions returns what was registered with the worker, in that order. It may be called at any time.
func (w *Worker) Subscriptions() []Subscription {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make([]Subscription, len(w.mu.subscriptions))
	for i, s := range w.mu.subscriptions {
		all[i] = s.Subscription
	}
	return all
}
