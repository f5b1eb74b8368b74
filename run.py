"""The one entry point: python run.py method=dgl dataset=cifar10 backbone=resnet32 K=16"""

from localsl.cli.main import main

if __name__ == "__main__":
    main()
