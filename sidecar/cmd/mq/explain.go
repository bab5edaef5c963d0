package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/linker"
	"github.com/bufbuild/protocompile/reporter"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/typedmq/typedmq/internal/topic"
	"github.com/typedmq/typedmq/schemas"
	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
)

func newExplain(c *cli) *cobra.Command {
	var paths []string
	cmd := &cobra.Command{
		Use:   "explain FILE.proto|TOPIC",
		Short: "Show the policy of each subscription, and where each value comes from",
		Long: `explain shows what is in force for each subscription, and who says so: its rpc,
the defaults of its service, or nobody, so that a built-in default applies.

A FILE, which ends in .proto, is compiled here, with all that it imports from
the folders of --proto_path; mq/v1/options.proto need not be there. Of a TOPIC
the sidecar is asked.`,
		Example: `  mq explain proto/shipping/v1/shipping.proto --proto_path proto
  mq explain orders.placed`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			subs := explainTopic
			if strings.HasSuffix(args[0], ".proto") {
				subs = func(ctx context.Context, _ *cli, name string) ([]explained, error) {
					return explainFile(ctx, name, paths)
				}
			}
			all, err := subs(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			return printExplained(cmd, c, all)
		},
	}
	cmd.Flags().StringArrayVarP(&paths, "proto_path", "I", nil, "folder in which FILE and what it imports are found; may be given several times (default: .)")
	return cmd
}

// explained is a subscription as it is shown.
type explained struct {
	Group    string    `json:"group"`
	Topic    string    `json:"topic"`
	RPC      string    `json:"rpc"`
	Settings []setting `json:"settings"`
}

// setting is one setting. Place is "file:line:column" of what says so, if that is known.
type setting struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Source string `json:"source"`
	Place  string `json:"place,omitempty"`
}

// explainTopic asks the sidecar.
func explainTopic(ctx context.Context, c *cli, name string) ([]explained, error) {
	sidecar, err := c.dial()
	if err != nil {
		return nil, err
	}
	defer sidecar.close()
	answer, err := ask(ctx, sidecar, sidecar.admin.DescribeTopic, &adminv1.DescribeTopicRequest{Topic: name})
	if err != nil {
		return nil, err
	}
	var out []explained
	for _, s := range answer.GetSubscriptions() {
		e := explained{Group: s.GetGroup(), Topic: s.GetTopic(), RPC: s.GetRpc()}
		for _, v := range s.GetSettings() {
			e.Settings = append(e.Settings, setting{Name: v.GetName(), Value: v.GetValue(), Source: v.GetSource()})
		}
		out = append(out, e)
	}
	return out, nil
}

// explainFile compiles a file.
func explainFile(ctx context.Context, name string, paths []string) ([]explained, error) {
	if len(paths) == 0 {
		paths = []string{"."}
	}
	file, err := compile(ctx, within(name, paths), paths)
	if err != nil {
		return nil, err
	}
	set, faults := topic.Load([]protoreflect.FileDescriptor{file})
	if len(faults) > 0 {
		return nil, faults
	}
	var out []explained
	for _, s := range set.Subscriptions {
		e := explained{Group: s.Group, Topic: s.Topic.Name, RPC: s.RPC}
		for _, v := range set.Settings(s) {
			shown := setting{Name: v.Name, Value: v.Value, Source: v.From.String()}
			if v.Place.Line > 0 {
				shown.Place = fmt.Sprintf("%s:%d:%d", v.Place.File, v.Place.Line, v.Place.Column)
			}
			e.Settings = append(e.Settings, shown)
		}
		out = append(out, e)
	}
	return out, nil
}

// within is the name of a file as imports write it: without the folder of --proto_path that it is in, as protoc has it.
func within(name string, paths []string) string {
	best := ""
	file, err := filepath.Abs(name)
	if err != nil {
		return filepath.ToSlash(name)
	}
	for _, p := range paths {
		folder, err := filepath.Abs(p)
		if err != nil {
			continue
		}
		rel, err := filepath.Rel(folder, file)
		if err == nil && filepath.IsLocal(rel) && (best == "" || len(rel) < len(best)) {
			best = rel
		}
	}
	return filepath.ToSlash(cmp.Or(best, name))
}

// compile compiles a file. Its error is all mistakes of all files, one a line.
func compile(ctx context.Context, name string, paths []string) (linker.File, error) {
	var faults []string
	compiler := protocompile.Compiler{
		Resolver: protocompile.WithStandardImports(protocompile.CompositeResolver{
			&protocompile.SourceResolver{ImportPaths: paths},
			protocompile.ResolverFunc(func(wanted string) (protocompile.SearchResult, error) {
				if wanted != "mq/v1/options.proto" {
					return protocompile.SearchResult{}, fs.ErrNotExist
				}
				return protocompile.SearchResult{Source: bytes.NewReader(schemas.Options)}, nil
			}),
		}),
		SourceInfoMode: protocompile.SourceInfoStandard | protocompile.SourceInfoExtraOptionLocations,
		Reporter: reporter.NewReporter(func(e reporter.ErrorWithPos) error {
			faults = append(faults, e.Error())
			return nil
		}, nil),
	}
	isIn := func(folder string) bool {
		_, err := os.Stat(filepath.Join(folder, filepath.FromSlash(name)))
		return err == nil
	}
	if !slices.ContainsFunc(paths, isIn) {
		return nil, usagef("%s is not in %s; name its folder with --proto_path", name, strings.Join(paths, ", "))
	}
	files, err := compiler.Compile(ctx, name)
	if errors.Is(err, fs.ErrNotExist) && len(faults) == 0 {
		return nil, fmt.Errorf("%w; name the folder of what is imported with --proto_path", err)
	}
	if len(faults) > 0 {
		return nil, errors.New(strings.Join(faults, "\n"))
	}
	if err != nil {
		return nil, err
	}
	return files[0], nil
}

func printExplained(cmd *cobra.Command, c *cli, all []explained) error {
	slices.SortFunc(all, func(a, b explained) int { return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Group, b.Group)) })
	out := cmd.OutOrStdout()
	if c.format == "json" {
		if all == nil {
			all = []explained{}
		}
		var line, text bytes.Buffer
		encoder := json.NewEncoder(&line)
		encoder.SetEscapeHTML(false) // filters have < and >
		if err := encoder.Encode(map[string]any{"subscriptions": all}); err != nil {
			return err
		}
		if err := json.Indent(&text, escapeJSON(bytes.TrimSpace(line.Bytes())), "", "  "); err != nil {
			return err
		}
		_, err := fmt.Fprintf(out, "%s\n", text.Bytes())
		return err
	}
	if len(all) == 0 {
		_, err := fmt.Fprintln(out, "nobody subscribes")
		return err
	}
	for i, e := range all {
		if i > 0 {
			fmt.Fprintln(out)
		}
		fmt.Fprintf(out, "group %s, topic %s, rpc %s\n", printable(e.Group), printable(e.Topic), printable(e.RPC))
		t := newTable(out, "SETTING", "VALUE", "FROM")
		for _, s := range e.Settings {
			t.row(s.Name, s.Value, from(s))
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	return nil
}

// from says who says so.
func from(s setting) string {
	said := map[string]string{"rpc": "the rpc", "service": "the service's defaults", "default": "built in"}[s.Source]
	if s.Place == "" {
		return cmp.Or(said, s.Source)
	}
	return said + ", " + s.Place
}
