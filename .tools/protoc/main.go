// Command protoc compiles one .proto file to Go, without a C++ toolchain, plugins on the PATH or a network.
//
//	protoc -name wice/signaling.proto -out ../../proto/pb/signaling.pb.go ../../proto/signaling.proto
//
// The name is the one that the file is registered under in the protobuf registry of a process, which panics when two packages
// register the same: so it says more than "signaling.proto".
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/bufbuild/protocompile"
	gengo "google.golang.org/protobuf/cmd/protoc-gen-go/internal_gengo"
	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

func main() {
	name := flag.String("name", "", "name to register the file under")
	out := flag.String("out", "", "Go file to write")
	flag.Parse()
	if *name == "" || *out == "" || flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := generate(*name, flag.Arg(0), *out); err != nil {
		fmt.Fprintln(os.Stderr, "protoc:", err)
		os.Exit(1)
	}
}

func generate(name, in, out string) error {
	compiler := protocompile.Compiler{
		Resolver: &protocompile.SourceResolver{Accessor: func(path string) (io.ReadCloser, error) {
			if path != name {
				return nil, os.ErrNotExist
			}
			return os.Open(in)
		}},
		SourceInfoMode: protocompile.SourceInfoStandard, // the comments
	}
	files, err := compiler.Compile(context.Background(), name)
	if err != nil {
		return fmt.Errorf("compile %s: %w", in, err)
	}
	plugin, err := protogen.Options{}.New(&pluginpb.CodeGeneratorRequest{
		FileToGenerate: []string{name},
		ProtoFile:      []*descriptorpb.FileDescriptorProto{protodesc.ToFileDescriptorProto(files[0])},
		Parameter:      proto.String("paths=source_relative"),
	})
	if err != nil {
		return fmt.Errorf("generate %s: %w", in, err)
	}
	for _, f := range plugin.Files {
		if f.Generate {
			gengo.GenerateFile(plugin, f)
		}
	}
	response := plugin.Response()
	if response.Error != nil || len(response.File) != 1 {
		return fmt.Errorf("generate %s: %d files, error %q", in, len(response.File), response.GetError())
	}
	if err := os.WriteFile(out, []byte(response.File[0].GetContent()), 0o644); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}
