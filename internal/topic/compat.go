package topic

import "fmt"

// Difference is a way in which a new declaration of a topic contradicts the one in force.
type Difference struct {
	// What is "message", "key", "partitions", "ordering", "delivery" or "priority_levels".
	What     string
	Old, New string
}

func (d Difference) String() string { return fmt.Sprintf("%s: %s became %s", d.What, d.Old, d.New) }

// Incompatible returns the first difference in what is fixed for a topic's life, nil if there is none.
func Incompatible(old, new *Topic) *Difference {
	for _, d := range []Difference{
		{"message", string(old.Message.FullName()), string(new.Message.FullName())},
		{"key", old.Key.String(), new.Key.String()},
		{"partitions", fmt.Sprint(old.Partitions), fmt.Sprint(new.Partitions)},
		{"ordering", old.Ordering.String(), new.Ordering.String()},
		{"delivery", old.Delivery.String(), new.Delivery.String()},
		{"priority_levels", fmt.Sprint(old.PriorityLevels), fmt.Sprint(new.PriorityLevels)},
	} {
		if d.Old != d.New {
			return &d
		}
	}
	return nil
}
