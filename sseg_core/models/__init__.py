"""The network: backbone, pixel decoder, mask decoder and the whole of S-Seg."""
