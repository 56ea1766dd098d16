// Package image is the model of images: descriptors, manifests, indexes, configs and platforms.
//
// It owns the reading and writing of their formats, OCI and Docker schema 2, and the rules for
// choosing among platforms. It does no I/O: bytes go in, values come out. Names of images are
// the business of package ref.
//
// Bytes are hostile until they are parsed. Every parser has a limit, refuses what two programs
// could read in two ways, and gives the reason. Originals are never rewritten: a digest names
// the bytes as they came.
//
// What a descriptor is follows from its place in the document that holds it, never from its
// media type alone: the config of an image built by Docker 1.9 or older says
// application/octet-stream, and is a config all the same.
package image
