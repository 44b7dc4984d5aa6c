package main

// shell runs a hook.
var shell = []string{"cmd.exe", "/C"}
