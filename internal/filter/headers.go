package filter

import (
	"iter"
	"maps"
	"reflect"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// Headers gives a filter the headers of one message. Looking up single names, which is what most filters do, needs no map.
type Headers interface {
	// Get returns the value of the header name.
	Get(name string) (value string, ok bool)
	// All yields each header once. It is called only by expressions that go through all headers.
	All() iter.Seq2[string, string]
}

// HeaderMap is Headers in a map.
type HeaderMap map[string]string

// Get implements Headers.
func (m HeaderMap) Get(name string) (string, bool) {
	v, ok := m[name]
	return v, ok
}

// All implements Headers.
func (m HeaderMap) All() iter.Seq2[string, string] { return maps.All(m) }

// headersValue is the variable headers: a CEL map that looks single names up in Headers and builds a real map for the rest. It
// notes names that are not there, so that Match can tell a missing header from other failures.
type headersValue variables

var _ traits.Mapper = (*headersValue)(nil)

// Find implements traits.Mapper.
func (h *headersValue) Find(key ref.Val) (ref.Val, bool) {
	name, ok := key.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(key), false
	}
	if h.in.Headers != nil {
		if v, ok := h.in.Headers.Get(string(name)); ok {
			return types.String(v), true
		}
	}
	h.missing = append(h.missing, string(name))
	return nil, false
}

// Get implements traits.Indexer.
func (h *headersValue) Get(key ref.Val) ref.Val {
	v, found := h.Find(key)
	if !found && v == nil {
		return types.NewErr("no such key: %v", key)
	}
	return v
}

// Contains implements traits.Container.
func (h *headersValue) Contains(key ref.Val) ref.Val {
	name, ok := key.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(key)
	}
	if h.in.Headers == nil {
		return types.False
	}
	_, found := h.in.Headers.Get(string(name))
	return types.Bool(found)
}

// Iterator implements traits.Iterable.
func (h *headersValue) Iterator() traits.Iterator { return h.full().Iterator() }

// Size implements traits.Sizer.
func (h *headersValue) Size() ref.Val { return h.full().Size() }

// Equal implements ref.Val.
func (h *headersValue) Equal(other ref.Val) ref.Val { return h.full().Equal(other) }

// ConvertToNative implements ref.Val.
func (h *headersValue) ConvertToNative(t reflect.Type) (any, error) {
	return h.full().ConvertToNative(t)
}

// ConvertToType implements ref.Val.
func (h *headersValue) ConvertToType(t ref.Type) ref.Val { return h.full().ConvertToType(t) }

// Type implements ref.Val.
func (h *headersValue) Type() ref.Type { return types.MapType }

// Value implements ref.Val.
func (h *headersValue) Value() any { return h.full().Value() }

func (h *headersValue) full() traits.Mapper {
	var m map[string]string
	if h.in.Headers != nil {
		m = maps.Collect(h.in.Headers.All())
	}
	return types.NewStringStringMap(h.adapter, m)
}
