package config

import "github.com/wice-go/wice-go/proto"

// ParseICEServer reads the URI of a STUN or TURN server: it is [proto.ParseICEServer], beside the other values that flags share.
// Its errors do not contain the secret.
func ParseICEServer(s string) (proto.ICEServer, error) { return proto.ParseICEServer(s) }
