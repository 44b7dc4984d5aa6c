// Package signal carries offers between peers: it says what a backend is, seals and opens what backends carry, and routes it.
//
//	session -> Router.Send -> seal -> Backend.Publish, on all backends at once
//	                                        |
//	session <- OnOffer <- checks <- open <- Router.Deliver, from any backend
//
// # Checks
//
// An envelope that arrives passes these steps in this order, in one goroutine; [DropReason] has one value for each way to fail:
//
//  1. Size, then a place in a bounded queue. [Router.Deliver] never blocks: when the queue is full the newcomer is dropped.
//  2. The recipient is our own public key.
//  3. The seal opens: Noise_X_25519_ChaChaPoly_BLAKE2s with a prologue that names protocol and version, see package proto for the bytes. Opening
//     costs two Diffie-Hellman operations, which anyone who knows our public key can cause, so the rate of it is bounded as a whole.
//  4. The sender is a configured peer. Nothing of the payload was looked at until here.
//  5. The payload is an offer within the limits of package proto.
//  6. The timestamp is later than those of all offers accepted from this peer.
//  7. The peer keeps to its rate. This comes after the timestamp, so that playing recorded envelopes does not use up a peer's rate.
//
// # Freshness
//
// Offers are cumulative, so an older one that arrives late is no loss, and one timestamp per peer is all the memory that step 6 needs: within the
// life of a process an envelope is accepted once, whichever backend it came from and whoever delivered it again.
//
// A process that has just started has no such memory. It does not compare timestamps with its own clock to make up for that: hosts without
// a battery-backed clock start in 1970, or at the time of their last shutdown, and must be able to find their peers, whose WireGuard handshakes
// work regardless of the clock. So a recording can pass step 6 in a new process, until the first genuine envelope of that peer. It achieves
// little: a recorded offer can't carry the rid of a session that was drawn at random after it was recorded. All that a session
// does for an offer which does not answer its own id is to answer it, with an offer without candidates; agents start, and candidates are
// contacted, only upon offers whose rid is the current id. The genuine peer's next envelope is newer and takes over.
//
// A peer whose clock was set back and which was then restarted sends timestamps that its peers have passed already. It is heard again
// when its clock has caught up, or when the peers restart; WireGuard's own handshakes are refused in that state too, for the same reason.
// The log says so.
package signal
