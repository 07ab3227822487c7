module example.com/acme/uses-tollhouse

go 1.23

require example.com/acme/tollhouse v0.0.0

replace example.com/acme/tollhouse => ./client
