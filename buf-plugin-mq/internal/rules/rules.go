// Package rules makes checks of buf out of what typedmq knows: package internal/topic/compat says what breaks somebody, package internal/topic what is
// wrong, and this package what is legal but unwise. It knows the protocol of buf's plugins, which no other package does.
package rules

import (
	"context"
	"slices"

	"buf.build/go/bufplugin/check"
	"buf.build/go/bufplugin/descriptor"
	"buf.build/go/bufplugin/info"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/typedmq/typedmq/internal/topic/compat"
)

// Category is what one writes under use: in buf.yaml to get all rules but the optional ones.
const Category = "TYPEDMQ"

// Spec is the plugin.
func Spec() *check.Spec {
	spec := &check.Spec{
		Categories: []*check.CategorySpec{{ID: Category, Purpose: "Checks the annotations of typedmq."}},
		Info: &info.Spec{
			SPDXLicenseID: "apache-2.0", LicenseURL: "https://www.apache.org/licenses/LICENSE-2.0",
			Documentation: "Checks topics, publishers and consumers of typedmq.",
		},
	}
	for _, r := range compat.Rules() {
		spec.Rules = append(spec.Rules, rule(string(r.Rule), r.Purpose, r.Optional, check.RuleTypeBreaking, func(req check.Request, w check.ResponseWriter) error {
			return breaking(req, w, r.Rule)
		}))
	}
	spec.Rules = append(spec.Rules, rule("MQ_VALID", "Checks that code can be generated from the annotations.", false, check.RuleTypeLint, valid))
	for _, l := range lints() {
		spec.Rules = append(spec.Rules, rule(l.id, l.purpose, false, check.RuleTypeLint, func(req check.Request, w check.ResponseWriter) error {
			return lint(req, w, l)
		}))
	}
	return spec
}

// rule is in the category unless it is optional.
func rule(id, purpose string, optional bool, kind check.RuleType, run func(check.Request, check.ResponseWriter) error) *check.RuleSpec {
	spec := &check.RuleSpec{
		ID: id, Purpose: purpose, Type: kind, Default: !optional,
		Handler: check.RuleHandlerFunc(func(_ context.Context, w check.ResponseWriter, req check.Request) error { return run(req, w) }),
	}
	if !optional {
		spec.CategoryIDs = []string{Category}
	}
	return spec
}

// split tells files that are to be checked from all that are known, which are these and their imports.
func split(files []descriptor.FileDescriptor) (checked, all []protoreflect.FileDescriptor) {
	for _, f := range files {
		all = append(all, f.ProtoreflectFileDescriptor())
		if !f.IsImport() {
			checked = append(checked, f.ProtoreflectFileDescriptor())
		}
	}
	return checked, all
}

// has tells whether the request knows a file: a place in another one would be refused.
func has(files []descriptor.FileDescriptor, path string) bool {
	return slices.ContainsFunc(files, func(f descriptor.FileDescriptor) bool { return f.ProtoreflectFileDescriptor().Path() == path })
}
