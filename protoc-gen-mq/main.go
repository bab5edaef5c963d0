// Protoc-gen-mq is a plugin for buf and protoc that generates typed publishers, consumers and topics for Go from services and
// messages with the annotations of mq/v1/options.proto. Next to protoc-gen-go:
//
//	plugins:
//	  - local: protoc-gen-mq
//	    out: gen
//	    opt: paths=source_relative
//	    strategy: all
//
// With strategy all, it sees all files at once and finds names that two of them use.
//
// For foo/v1/foo.proto in Go package foov1 it writes foo/v1/foov1mq/foo.mq.go. With package_suffix= (empty) it writes
// foo/v1/foo.mq.go in package foov1 itself. The options paths, module and M work as for protoc-gen-go.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime/debug"

	"google.golang.org/protobuf/compiler/protogen"

	"github.com/typedmq/typedmq/protoc-gen-mq/internal/gen"
)

const usage = "protoc-gen-mq is run by buf or protoc and reads a request from standard input.\n\nFlags:\n" +
	"  -h, --help   print this help and exit\n  --version    print the version and exit\n"

func main() {
	if len(os.Args) == 2 {
		switch os.Args[1] {
		case "--version":
			fmt.Println("protoc-gen-mq", version())
			return
		case "-h", "--help":
			fmt.Print(usage)
			return
		}
	}
	if len(os.Args) > 1 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	var flags flag.FlagSet
	suffix := flags.String("package_suffix", "mq", "what the name of the generated package adds to that of the messages; empty: the same package")
	protogen.Options{ParamFunc: flags.Set}.Run(func(p *protogen.Plugin) error {
		return gen.Generate(p, *suffix)
	})
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
