package rules

import (
	"fmt"

	"buf.build/go/bufplugin/check"

	"github.com/typedmq/typedmq/internal/topic"
	"github.com/typedmq/typedmq/internal/topic/compat"
)

// breaking reports the changes of one rule. Of old annotations that this version refuses, it compares what can be read: they are there, and the
// rules may have become stricter. New ones must be right.
func breaking(req check.Request, w check.ResponseWriter, rule compat.Rule) error {
	oldFiles, allOld := split(req.AgainstFileDescriptors())
	_, allNew := split(req.FileDescriptors())
	old, _ := topic.Load(oldFiles)
	now, faults := topic.Load(allNew) // imports too: what has moved to another module is not gone
	if len(faults) > 0 {
		return fmt.Errorf("what is wrong cannot be compared; correct it first, buf lint shows it too:\n%w", faults)
	}
	for _, c := range compat.Compare(old, now, allOld, allNew) {
		if c.Rule != rule {
			continue
		}
		at := []check.AddAnnotationOption{check.WithMessage(c.Message), check.WithAgainstDescriptor(c.Was)}
		switch {
		case c.Element != nil && has(req.FileDescriptors(), c.Element.ParentFile().Path()):
			at = append(at, check.WithFileNameAndSourcePath(c.Element.ParentFile().Path(), topic.SourceOf(c.Element, c.Fields...)))
		case has(req.FileDescriptors(), c.Was.ParentFile().Path()):
			at = append(at, check.WithFileName(c.Was.ParentFile().Path()))
		}
		w.AddAnnotation(at...)
	}
	return nil
}
