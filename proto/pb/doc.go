// Package pb has the code generated from signaling.proto: the wire form of the messages, which only package proto touches.
package pb

//go:generate go run -C ../../.tools/protoc . -name wice/signaling.proto -out ../../proto/pb/signaling.pb.go ../../proto/signaling.proto
