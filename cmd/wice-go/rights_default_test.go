//go:build !linux

package main

func dropHere() {}
