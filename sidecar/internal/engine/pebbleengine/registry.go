package pebbleengine

import "sync"

// registry holds the states of the logs or shards that were used since the store was opened, each loaded from disk at its first use.
type registry[ID comparable, State any] struct {
	load func(ID, *State) error
	mu   struct {
		sync.Mutex
		entries map[ID]*entry[State]
	}
}

type entry[State any] struct {
	value State
	mu    struct {
		sync.Mutex
		loaded bool
	}
}

// entry returns the state of id, which may not be loaded yet.
func (r *registry[ID, State]) entry(id ID) *entry[State] {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.entries == nil {
		r.mu.entries = make(map[ID]*entry[State])
	}
	e := r.mu.entries[id]
	if e == nil {
		e = &entry[State]{}
		r.mu.entries[id] = e
	}
	return e
}

// get returns the loaded state of id. A load that fails is tried again at the next call.
func (r *registry[ID, State]) get(id ID) (*State, error) {
	e := r.entry(id)
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.mu.loaded {
		if err := r.load(id, &e.value); err != nil {
			return nil, err
		}
		e.mu.loaded = true
	}
	return &e.value, nil
}
