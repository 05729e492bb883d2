_base_ = '../retinanet_psbn.py'
